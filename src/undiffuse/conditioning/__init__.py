"""What a user or a data set says, made into tensors: the only place that knows words and files."""
