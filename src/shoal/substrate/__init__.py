"""What says which nodes there are, where that is not the file: a Ray cluster (docs/ray.md).

`scale` and `plan` are pure. `controller` and `runner` are Ray actors, the one for the cluster, the other on each of
its nodes; `driver` is what `shoal up` and `shoal down` do. The rest of Shoal knows nothing of Ray: a node process is
started with `shoal serve --join`, is told which engines to run (`shoal.node.allotment`), and leaves when it is told to.
"""
