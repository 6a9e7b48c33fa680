"""What radnode knows about studies, rules, jobs and results. Pure: no disk, network, clock or logging."""
