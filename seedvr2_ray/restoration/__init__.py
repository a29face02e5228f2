"""The three functions: plan, restore, assemble."""
