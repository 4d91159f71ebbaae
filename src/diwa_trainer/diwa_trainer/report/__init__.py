"""One HTML page that opens without a network.

About a pipeline's runs: `gather` reads, `page` writes. About the policy node's run logs: `run_logs` reads and
`policy_page` writes. `scales`, `charts` and `html` draw both.
"""
