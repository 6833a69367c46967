"""Everything that uses Ray: actors, Ray Train, Ray Tune, and the driver of a run.

Packages, from the lowest to the highest. Each imports only those before it:

    cluster     connection, capacity, tasks, grids of trials, job submission, access to the run directory
    training    a training task on all ranks: trainer, worker, recorder, checkpoints, sampler actor
    scoring     evaluators, the ledger (evaluation cache), the deployment search
    pipeline    one run from preflight to deployment
    studies     grids of runs
"""
