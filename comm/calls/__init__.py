"""comm/calls"""
