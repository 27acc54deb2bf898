"""runtime/sharding"""
