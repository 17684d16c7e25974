"""A chat with one or several models of a server, in a terminal.

`serve.commands` starts it; `session` reads what is typed, `server` asks the models, `view`
shows their answers.
"""
