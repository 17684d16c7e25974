"""Training on the student's own answers, which the teacher corrects token by token.

In: a student, the teacher's checkpoint and the prompts of the stored conversations. Out: one of
TRL's trainers, ready to train. The teacher is in memory here, and nowhere else in training.
"""
