"""A model made smaller: fewer layers, narrower MLPs; and the check that its config says so."""
