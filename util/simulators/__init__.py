"""The simulators: cells with full ground truth, in the raw layout of each data set."""
