"""Who is who: keys, certificates, enrolment bundles and the TLS policy that both daemons share."""
