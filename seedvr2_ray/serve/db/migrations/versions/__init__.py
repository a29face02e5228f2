"""The steps, each frozen once it is released: a step never imports the tables, which go on changing."""
