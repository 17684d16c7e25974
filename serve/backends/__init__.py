"""Who answers a model's name: an engine in this process, a server elsewhere, an experiment."""
