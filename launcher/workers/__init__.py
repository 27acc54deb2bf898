"""launcher/workers"""
