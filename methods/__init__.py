"""The methods of mtlbench, one file each. Import as ``mtlbench.methods``."""

if __name__ != "mtlbench.methods":
    raise ImportError("import this package as 'mtlbench.methods', not as 'methods'")
