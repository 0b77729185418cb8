"""The tasks of mtlbench, one file each. Import as ``mtlbench.tasks``."""

if __name__ != "mtlbench.tasks":
    raise ImportError("import this package as 'mtlbench.tasks', not as 'tasks'")
