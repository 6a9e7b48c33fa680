import pytest

# what they assert is shown as in a test
pytest.register_assert_rewrite("tests.crash_bench_scenarios", "tests.crash_requests", "tests.crash_scenarios")
