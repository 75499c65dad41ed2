"""The legal record: cases, decisions, deadlines, letters, the audit log and its exports."""
