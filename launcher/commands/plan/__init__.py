"""`ringlet plan` and `ringlet simulate`: asked says what both are asked, machine describes this
machine, tables and shown are what people read, command and simulate the commands.
"""
