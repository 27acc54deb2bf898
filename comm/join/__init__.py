"""comm/join"""
