"""What Python programs and notebooks use: the verbs of the command line as functions, whose values show themselves."""
