"""On-policy training: the teacher corrects the student's own answers token by token.

In: a student, the teacher's checkpoint and the prompts of the stored conversations. Out: one of
TRL's trainers, ready to train. Only in this phase is the teacher in memory.
"""
