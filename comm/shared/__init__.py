"""comm/shared"""
