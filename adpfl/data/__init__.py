"""On-disk layouts, patient-level splits and synthetic hospitals. Importable without torch."""
