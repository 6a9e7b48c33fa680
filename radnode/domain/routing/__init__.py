"""`routing.yaml`: which series and studies go to which app, and where the results go.

`parse_routing` turns its text into a Routing, or into a RoutingError with every problem and its line. `evaluate_series`
and `evaluate_study` hold a Routing against what has arrived and say, rule by rule, what matched and why.
"""

from radnode.domain.errors import Problem, RoutingError
from radnode.domain.routing.completeness import Complete
from radnode.domain.routing.conditions import Condition, Context, Verdict
from radnode.domain.routing.destinations import Destination
from radnode.domain.routing.evaluate import Evaluation, evaluate_series, evaluate_study
from radnode.domain.routing.hours import Hours
from radnode.domain.routing.inputs import Input, Wait
from radnode.domain.routing.keywords import CONTEXT_KEYWORDS, STUDY_KEYWORDS
from radnode.domain.routing.matching import AnyOf, Between, Period, Present
from radnode.domain.routing.parse import KEYS, parse_routing
from radnode.domain.routing.rules import Catalog, Routing, Rule
from radnode.domain.routing.senders import Sender, Senders
from radnode.domain.routing.taken import takes

__all__ = [
    "CONTEXT_KEYWORDS",
    "KEYS",
    "STUDY_KEYWORDS",
    "AnyOf",
    "Between",
    "Catalog",
    "Complete",
    "Condition",
    "Context",
    "Destination",
    "Evaluation",
    "Hours",
    "Input",
    "Period",
    "Present",
    "Problem",
    "Routing",
    "RoutingError",
    "Rule",
    "Sender",
    "Senders",
    "Verdict",
    "Wait",
    "evaluate_series",
    "evaluate_study",
    "parse_routing",
    "takes",
]
