"""What is measured of a model: fidelity to the teacher, speed."""
