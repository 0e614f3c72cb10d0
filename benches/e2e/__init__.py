"""pgflo against native logical replication: same machine, same servers, same data, one run."""
