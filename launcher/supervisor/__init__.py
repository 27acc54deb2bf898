"""launcher/supervisor"""
