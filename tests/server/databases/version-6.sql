PRAGMA user_version=6;
BEGIN TRANSACTION;
CREATE TABLE audit_log (
        sequence INTEGER PRIMARY KEY,
        entry_json TEXT NOT NULL,
        chain TEXT NOT NULL
    ) STRICT
    ;
INSERT INTO "audit_log" VALUES(1,'{"actor":"local","at":"1970-01-01T00:16:40.000000+00:00","detail":"plan","kind":"run_created","run":"demo","sequence":1,"subject":""}','0fce27e39e0c152df846d127851098cdff0825a7f000de9bf091b27cf51608b4');
INSERT INTO "audit_log" VALUES(2,'{"actor":"local","at":"1970-01-01T00:16:41.000000+00:00","detail":"","kind":"site_joined","run":"demo","sequence":2,"subject":"urn:adpfl:site:hospital1"}','da7c3eac8fa6213be753c56edde8bc0b25f3af31eeef4777c8da2994aa617835');
CREATE TABLE averaged_models (
        run TEXT NOT NULL REFERENCES runs (run),
        round INTEGER NOT NULL,
        digest TEXT NOT NULL,
        PRIMARY KEY (run, round)
    ) STRICT
    ;
INSERT INTO "averaged_models" VALUES('demo',1,'84b92b76c4cfdad3c3bcd01746ea82e2469b025950369a46f9ba23bbac5bae1a');
CREATE TABLE certificates (
        serial TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        not_after REAL NOT NULL,
        issued_at REAL NOT NULL,
        revoked_at REAL,
        pem TEXT NOT NULL
    , role TEXT NOT NULL DEFAULT 'site', request_sha256 TEXT) STRICT
    ;
INSERT INTO "certificates" VALUES('01','hospital1',99999.0,950.0,NULL,'PEM','site','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
CREATE TABLE commits (
        run TEXT NOT NULL REFERENCES runs (run),
        round INTEGER NOT NULL,
        site TEXT NOT NULL,
        base_digest TEXT NOT NULL,
        update_digest TEXT NOT NULL,
        ledger_head TEXT NOT NULL,
        receipt_json BLOB NOT NULL,
        signature BLOB NOT NULL,
        committed_at REAL NOT NULL,
        PRIMARY KEY (run, round, site)
    ) STRICT
    ;
INSERT INTO "commits" VALUES('demo',1,'hospital1','84b92b76c4cfdad3c3bcd01746ea82e2469b025950369a46f9ba23bbac5bae1a','ab17d4f57772b2ab58574d72a0e94e59a9cb47e4b357d132897b401f6503601b','9999999999999999999999999999999999999999999999999999999999999999',X'7B7D',X'736967',1003.0);
CREATE TABLE controls (
        sequence INTEGER PRIMARY KEY,
        run TEXT NOT NULL,
        control TEXT NOT NULL,
        reason TEXT NOT NULL,
        asked_at REAL NOT NULL,
        settled_at REAL,
        outcome TEXT,
        refusal TEXT
    ) STRICT
    ;
INSERT INTO "controls" VALUES(1,'demo','PAUSE','a look',1100.0,1100.5,'demo is paused',NULL);
CREATE TABLE declarations (
        site TEXT NOT NULL,
        task TEXT NOT NULL,
        training_patients INTEGER NOT NULL,
        declared_at REAL NOT NULL,
        PRIMARY KEY (site, task)
    ) STRICT
    ;
INSERT INTO "declarations" VALUES('hospital1','skin_lesion',10,1001.0);
CREATE TABLE enrollment_tokens (
        token_sha256 TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        issued_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        used_at REAL,
        request_sha256 TEXT,
        certificate_pem TEXT
    , role TEXT NOT NULL DEFAULT 'site') STRICT
    ;
INSERT INTO "enrollment_tokens" VALUES('eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee','hospital1',900.0,9000.0,950.0,'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','PEM','site');
CREATE TABLE objects (
        digest TEXT PRIMARY KEY,
        manifest_json BLOB NOT NULL
    ) STRICT
    ;
INSERT INTO "objects" VALUES('84b92b76c4cfdad3c3bcd01746ea82e2469b025950369a46f9ba23bbac5bae1a',X'7B226368756E6B5F73697A65223A36353533362C226368756E6B73223A5B2261616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161225D2C2274656E736F7273223A5B7B226474797065223A22463332222C226E616D65223A2277222C227368617065223A5B345D7D5D7D');
INSERT INTO "objects" VALUES('ab17d4f57772b2ab58574d72a0e94e59a9cb47e4b357d132897b401f6503601b',X'7B226368756E6B5F73697A65223A36353533362C226368756E6B73223A5B2262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262626262225D2C2274656E736F7273223A5B7B226474797065223A22463332222C226E616D65223A2277222C227368617065223A5B345D7D5D7D');
INSERT INTO "objects" VALUES('4dc3260c2fc9444514bd9d1fbb26f7e542e7df2f9198eff7d6305bf7287eea0f',X'7B226368756E6B5F73697A65223A36353533362C226368756E6B73223A5B2263636363636363636363636363636363636363636363636363636363636363636363636363636363636363636363636363636363636363636363636363636363225D2C2274656E736F7273223A5B7B226474797065223A22463332222C226E616D65223A2277222C227368617065223A5B345D7D5D7D');
INSERT INTO "objects" VALUES('80d66a4507562a8714964a293d4f1d43a03ad74556f05bec70ae87a43e707840',X'7B226368756E6B5F73697A65223A36353533362C226368756E6B73223A5B2264646464646464646464646464646464646464646464646464646464646464646464646464646464646464646464646464646464646464646464646464646464225D2C2274656E736F7273223A5B7B226474797065223A22463332222C226E616D65223A2277222C227368617065223A5B345D7D5D7D');
CREATE TABLE offers (
        run TEXT NOT NULL REFERENCES runs (run),
        round INTEGER NOT NULL,
        site TEXT NOT NULL,
        update_digest TEXT NOT NULL REFERENCES objects (digest),
        offered_at REAL NOT NULL,
        PRIMARY KEY (run, round, site, update_digest)
    ) STRICT
    ;
INSERT INTO "offers" VALUES('demo',1,'hospital1','ab17d4f57772b2ab58574d72a0e94e59a9cb47e4b357d132897b401f6503601b',1002.0);
CREATE TABLE rounds (
        run TEXT NOT NULL REFERENCES runs (run),
        round INTEGER NOT NULL,
        record_json TEXT NOT NULL,
        PRIMARY KEY (run, round)
    ) STRICT
    ;
INSERT INTO "rounds" VALUES('demo',1,'{}');
CREATE TABLE run_models (
        run TEXT NOT NULL REFERENCES runs (run),
        round INTEGER NOT NULL,
        digest TEXT NOT NULL,
        PRIMARY KEY (run, round)
    ) STRICT
    ;
INSERT INTO "run_models" VALUES('demo',0,'84b92b76c4cfdad3c3bcd01746ea82e2469b025950369a46f9ba23bbac5bae1a');
CREATE TABLE runs (
        run TEXT PRIMARY KEY,
        plan_json TEXT NOT NULL,
        plan_digest TEXT NOT NULL,
        state_json TEXT NOT NULL,
        created_at REAL NOT NULL
    ) STRICT
    ;
INSERT INTO "runs" VALUES('demo','{"aggregation":{"strategy":"fedavg","weights":"uniform"},"cohort":{"quorum":2,"round_deadline_seconds":3600.0,"sites":["hospital1","hospital2"]},"image_size":[64,64],"local":{"augment":true,"fedprox_mu":0.0,"learning_rate":0.1,"momentum":0.0,"records_per_unit":1,"steps":3,"weight_decay":0.0},"network":{"architecture":"unet","size":"tiny"},"privacy":{"clip_norm":null,"mechanism":null,"mode":"none","noise_multiplier":null,"sampling":{"mode":"full","probability":1.0},"unit":"patient"},"rounds":2,"run":"demo","seed":0,"task":"skin_lesion"}','bea9888c43dbcde576ca635b3631b4f521c021348eba10d3c4dd04fe398832ae','{"schema_version": 1, "plan": {"run": "demo", "task": "skin_lesion", "network": {"architecture": "unet", "size": "tiny", "trainable": "all"}, "image_size": [64, 64], "spacing_mm": null, "rounds": 2, "local": {"steps": 3, "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0, "fedprox_mu": 0.0, "records_per_unit": 1, "augment": true, "augmentations_per_record": 1}, "aggregation": {"strategy": "fedavg", "weights": "uniform", "averaging": null, "server_learning_rate": null, "beta1": null, "beta2": null, "tau": null, "trim_fraction": null}, "cohort": {"sites": ["hospital1", "hospital2"], "quorum": 2, "round_deadline_seconds": 3600.0}, "privacy": {"mode": "none", "unit": "patient", "sampling": {"mode": "full", "probability": 1.0}, "mechanism": null, "noise_multiplier": null, "clip_norm": null}, "seed": 0, "warm_start": null}, "status": "waiting", "paused": false, "sites": [{"site": "hospital1", "instance_id": "00000000000000000000000000000000", "training_patients": 10, "ready": false, "refusal": null, "silent": false, "rounds_missed": 0}, {"site": "hospital2", "instance_id": null, "training_patients": null, "ready": false, "refusal": null, "silent": false, "rounds_missed": 0}], "model_digest": "84b92b76c4cfdad3c3bcd01746ea82e2469b025950369a46f9ba23bbac5bae1a", "averaged_digest": null, "moments": null, "rounds_closed": 0, "open_round": null, "failure": ""}',1000.0);
CREATE TABLE server_moments (
        run TEXT NOT NULL REFERENCES runs (run),
        round INTEGER NOT NULL,
        first_digest TEXT NOT NULL REFERENCES objects (digest),
        second_digest TEXT NOT NULL REFERENCES objects (digest),
        PRIMARY KEY (run, round)
    ) STRICT
    ;
INSERT INTO "server_moments" VALUES('demo',1,'4dc3260c2fc9444514bd9d1fbb26f7e542e7df2f9198eff7d6305bf7287eea0f','80d66a4507562a8714964a293d4f1d43a03ad74556f05bec70ae87a43e707840');
CREATE TABLE signing_requests (
        request_sha256 TEXT PRIMARY KEY,
        role TEXT NOT NULL,
        name TEXT NOT NULL,
        hosts_json TEXT NOT NULL,
        purpose TEXT NOT NULL,
        request BLOB NOT NULL,
        token_sha256 TEXT,
        asked_at REAL NOT NULL,
        settled_at REAL,
        outcome TEXT CHECK (outcome IN ('signed', 'withdrawn')),
        CHECK ((settled_at IS NULL) = (outcome IS NULL))
    ) STRICT
    ;
INSERT INTO "signing_requests" VALUES('abababababababababababababababababababababababababababababababab','site','hospital1','[]','enrolment',X'3000',NULL,1000.0,1001.0,'signed');
CREATE TABLE timeline (
        sequence INTEGER PRIMARY KEY,
        run TEXT NOT NULL REFERENCES runs (run),
        event_json TEXT NOT NULL
    ) STRICT
    ;
INSERT INTO "timeline" VALUES(1,'demo','{"at_unix_seconds": 1000.0, "kind": "run_created", "site": null, "round": null, "detail": ""}');
CREATE TABLE timeline_counts (
        run TEXT NOT NULL REFERENCES runs (run),
        site TEXT NOT NULL,
        kind TEXT NOT NULL,
        round INTEGER NOT NULL,
        events INTEGER NOT NULL,
        last_at REAL NOT NULL,
        PRIMARY KEY (run, site, kind, round)
    ) STRICT, WITHOUT ROWID
    ;
INSERT INTO "timeline_counts" VALUES('demo','hospital1','site_joined',-1,1,1001.0);
CREATE INDEX timeline_by_run ON timeline (run, sequence);
CREATE TRIGGER audit_log_is_never_changed BEFORE UPDATE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_log_is_never_cut BEFORE DELETE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE INDEX signing_requests_by_holder ON signing_requests (role, name);
CREATE INDEX signing_requests_by_token ON signing_requests (token_sha256);
COMMIT;
