"""What each stage's manifest records for later stages: one frozen, versioned model per stage."""
