"""launcher/testing"""
