"""nn/autograd"""
