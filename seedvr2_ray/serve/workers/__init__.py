"""The processes that restore and finish, and the tasks that travel to them."""
