"""comm/schedules"""
