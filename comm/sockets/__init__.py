"""comm/sockets"""
