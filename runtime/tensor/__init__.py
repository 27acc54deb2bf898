"""runtime/tensor"""
