"""Answers to questions."""

from compare.answers.answers import Answer


def answered(question, text, role="student", **changes):
    values = {
        "prompt_id": question.prompt_id,
        "conversation_id": question.conversation_id,
        "messages": question.messages,
        "role": role,
        "model": role,
        "sample": 0,
        "seed": 0,
        "answer": text,
        "finish_reason": "stop",
        "prompt_tokens": 5,
        "completion_tokens": 4,
        "seconds": 0.5,
    }
    return Answer(**values | changes)
