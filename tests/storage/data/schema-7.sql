BEGIN TRANSACTION;
CREATE TABLE "archived" (
   "session" TEXT PRIMARY KEY,
   "bucket" TEXT,
   "envelopes" INTEGER,
   "objects" INTEGER,
   "bytes" INTEGER,
   "retain_until_utc_us" INTEGER,
   "whole_utc_us" INTEGER,
   "read_utc_us" INTEGER,
   "read_after" TEXT,
   "held" INTEGER
);
INSERT INTO "archived" VALUES('S20261126-KD01-R01-01','evid-6y',2,1,4096,2000563200000000,1795676400000000,NULL,'',0);
CREATE TABLE archived_object(session TEXT NOT NULL, name TEXT NOT NULL, version_id TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY(session, name)) WITHOUT ROWID;
INSERT INTO "archived_object" VALUES('S20261126-KD01-R01-01','manifest-1-0123456789abcdef.dsse.json','v0001',4096);
CREATE TABLE "checkin" (
   "seq" INTEGER PRIMARY KEY,
   "session" TEXT,
   "utc_us" INTEGER,
   "code" TEXT,
   "candidate_id" TEXT,
   "seat" TEXT
);
INSERT INTO "checkin" VALUES(7,'S20261126-KD01-R01-01',1795672806000000,'OK','DEMO-001','01');
INSERT INTO "checkin" VALUES(8,'S20261126-KD01-R01-01',1795672807000000,'E-NOT-ON-ROSTER',NULL,NULL);
CREATE TABLE "damage" (
   "stream" TEXT,
   "seq" INTEGER,
   "what" TEXT,
   "utc_us" INTEGER,
   "event_seq" INTEGER,
   PRIMARY KEY ("stream", "seq")
);
INSERT INTO "damage" VALUES('cam-front',1,'digest',1795680000000000,1);
CREATE TABLE "elsewhere" (
   "session" TEXT,
   "number" TEXT,
   "room_code" TEXT,
   "start_utc_us" INTEGER,
   PRIMARY KEY ("session", "number")
);
INSERT INTO "elsewhere" VALUES('S20261126-KD01-R01-01','000000198810080070','000000-KD01-R02',1795676400000000);
CREATE TABLE "envelope" (
   "digest" TEXT PRIMARY KEY,
   "kind" TEXT,
   "session" TEXT,
   "revision" INTEGER,
   "answers" TEXT,
   "body" BLOB
);
INSERT INTO "envelope" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','session-open','S20261126-KD01-R01-01',NULL,NULL,X'7B227061796C6F6164223A22227D');
CREATE TABLE "event" (
   "seq" INTEGER PRIMARY KEY,
   "session" TEXT,
   "kind" TEXT NOT NULL,
   "utc_us" INTEGER NOT NULL,
   "boot_us" INTEGER NOT NULL,
   "boot_id" TEXT NOT NULL,
   "body" TEXT NOT NULL,
   "prev" TEXT NOT NULL,
   "hash" TEXT NOT NULL
);
INSERT INTO "event" VALUES(1,NULL,'ReaderBack',1795672800000000,5000000000,'11111111-2222-3333-4444-555555555555','{"module":"05.01-20100101-0000000001-0000000001"}','0000000000000000000000000000000000000000000000000000000000000000','235d9d527ff1d4fccfde8f90afd9ab5be21d0b78d5372293edf18eec80d42f54');
INSERT INTO "event" VALUES(2,'S20261126-KD01-R01-01','SessionPlanned',1795672801000000,5001000000,'11111111-2222-3333-4444-555555555555','{"checkin_open_min":30,"duration_min":120,"late_cutoff_min":30,"min_proctors":1,"plan_id":"P20261126-0007","plan_sha256":"3333333333333333333333333333333333333333333333333333333333333333","retention_policy":"RP-SPECIAL-6Y","scheduled_start_us":1795672800000000,"session_kind":"exam_theory","source":"platform","staff":{"T001":"chief","T002":"proctor"},"title":"特种作业安全技术理论考试(低压电工)"}','235d9d527ff1d4fccfde8f90afd9ab5be21d0b78d5372293edf18eec80d42f54','1f4cab8fed9f567bea6ee6970f58bc7e15ee808acc2d12f75832107f770dba16');
INSERT INTO "event" VALUES(3,'S20261126-KD01-R01-01','RosterAccepted',1795672802000000,5002000000,'11111111-2222-3333-4444-555555555555','{"count":2,"roster_sha256":"4444444444444444444444444444444444444444444444444444444444444444","source":"platform","version":3}','1f4cab8fed9f567bea6ee6970f58bc7e15ee808acc2d12f75832107f770dba16','92557eeb0d0ab49673603a65c50162047802cf9a93510b0f941e49428a9394f0');
INSERT INTO "event" VALUES(4,'S20261126-KD01-R01-01','PreflightBegun',1795672803000000,5003000000,'11111111-2222-3333-4444-555555555555','{"by":"T001"}','92557eeb0d0ab49673603a65c50162047802cf9a93510b0f941e49428a9394f0','6d53f914c68c978e5f5bf4117fa958f0b51baf8d84eae902c5629557608dd35d');
INSERT INTO "event" VALUES(5,'S20261126-KD01-R01-01','CheckinOpened',1795672804000000,5004000000,'11111111-2222-3333-4444-555555555555','{"by":"T001","clock_state":"synced","readings":{"roster":"green"},"session_seq":1,"streams":{"cam-front":"rtsp"}}','6d53f914c68c978e5f5bf4117fa958f0b51baf8d84eae902c5629557608dd35d','7a2fbaf9e87d5cf01db8b3089aa22e62153f80e2df6a900bec37a766e7d81c15');
INSERT INTO "event" VALUES(6,'S20261126-KD01-R01-01','OpenSigned',1795672805000000,5005000000,'11111111-2222-3333-4444-555555555555','{"digest":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}','7a2fbaf9e87d5cf01db8b3089aa22e62153f80e2df6a900bec37a766e7d81c15','59744145190eb09135ca1bdb2a97bef6245e999c6d0a846bd19bf740a3ce8424');
INSERT INTO "event" VALUES(7,'S20261126-KD01-R01-01','CandidateAdmitted',1795672806000000,5006000000,'11111111-2222-3333-4444-555555555555','{"candidate_id":"DEMO-001","method":"id_card","seat":"01","subject":"ca56410747b99f6c3e869fdbd3f673517da925c5710617cd0ec9c1526e9241e8"}','59744145190eb09135ca1bdb2a97bef6245e999c6d0a846bd19bf740a3ce8424','a1057a1e9cd4ab46e1f20aebc2634019d5766620a9118212590814813746d78b');
INSERT INTO "event" VALUES(8,'S20261126-KD01-R01-01','AdmissionRefused',1795672807000000,5007000000,'11111111-2222-3333-4444-555555555555','{"code":"E-NOT-ON-ROSTER","subject":"9999999999999999999999999999999999999999999999999999999999999999"}','a1057a1e9cd4ab46e1f20aebc2634019d5766620a9118212590814813746d78b','84d2060473c29128c8d01f79ece051c3b5168ee0ebb9c8fab19ec5e2c479dcaa');
INSERT INTO "event" VALUES(9,'S20261126-KD01-R01-01','SegmentStored',1795672930000000,5130000000,'11111111-2222-3333-4444-555555555555','{"audio_peak_cdb":-2310,"boot_id":"11111111-2222-3333-4444-555555555555","bytes":1000,"clock_state":"synced","codec":"h264+aac","dur_us":60000000,"end_boot_us":5120000000,"end_reason":"rotated","end_utc_us":1795672920000000,"frame_us":40000,"path":"cam-front/2026/11/26/0000000001-20261126T060000Z.mp4","recovered":false,"run":"00000000000000000000000000000000","seq":1,"sha256":"1111111111111111111111111111111111111111111111111111111111111111","sidecar_sha256":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","silent_ms":0,"start_boot_us":5060000000,"start_utc_us":1795672860000000,"stream":"cam-front"}','84d2060473c29128c8d01f79ece051c3b5168ee0ebb9c8fab19ec5e2c479dcaa','0c1382ac0cac2c90fb1ded01e55a37f1e5977cfd1db6f2723928fbf30f56644e');
CREATE TABLE "footage_total" (
   "session" TEXT PRIMARY KEY,
   "segments" INTEGER NOT NULL,
   "bytes" INTEGER NOT NULL
);
INSERT INTO "footage_total" VALUES('S20261126-KD01-R01-01',1,1000);
CREATE TABLE "garbage" (
   "path" TEXT PRIMARY KEY,
   "utc_us" INTEGER
);
INSERT INTO "garbage" VALUES('cam-front/2026/11/25/0000000000-20261125T060000Z.mp4',1795672800000000);
CREATE TABLE "login" (
   "token_sha256" TEXT PRIMARY KEY,
   "staff_id" TEXT,
   "since_utc_us" INTEGER,
   "last_utc_us" INTEGER
);
INSERT INTO "login" VALUES('cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc','T001',1795672800000000,1795672800000000);
CREATE TABLE "outbox" (
   "id" INTEGER PRIMARY KEY,
   "kind" TEXT,
   "session" TEXT,
   "revision" INTEGER,
   "digest" TEXT,
   "priority" INTEGER,
   "state" TEXT,
   "attempts" INTEGER,
   "queued_utc_us" INTEGER,
   "last_error" TEXT
);
INSERT INTO "outbox" VALUES(1,'session-open','S20261126-KD01-R01-01',NULL,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',10,'waiting',0,1795672805000000,NULL);
CREATE TABLE "person" (
   "session" TEXT,
   "candidate_id" TEXT,
   "subject" TEXT,
   "number" TEXT,
   "name" TEXT,
   "admission_no" TEXT,
   "seat" TEXT,
   "person_category" TEXT,
   "trade" TEXT,
   "body" TEXT,
   PRIMARY KEY ("session", "candidate_id")
);
INSERT INTO "person" VALUES('S20261126-KD01-R01-01','DEMO-001','ca56410747b99f6c3e869fdbd3f673517da925c5710617cd0ec9c1526e9241e8','000000199001010018','样例甲','A001','01','SPECIAL','1.2 低压电工作业','{"id_type": "resident_id", "exam_kind": "\u521d\u8bad", "subject": "\u7406\u8bba", "demo": true}');
INSERT INTO "person" VALUES('S20261126-KD01-R01-01','DEMO-002','ae6b6e1ec6b9c5c65603de94f580316ff5f138f3942311b753b7403aa63f3300','000000198502150022','样例乙','A002','02','SPECIAL','1.2 低压电工作业','{"id_type": "resident_id", "exam_kind": "\u590d\u5ba1", "subject": "\u7406\u8bba", "demo": true}');
CREATE TABLE "plan" (
   "session" TEXT PRIMARY KEY,
   "plan_id" TEXT,
   "scheduled_start_us" INTEGER,
   "body" TEXT
);
INSERT INTO "plan" VALUES('S20261126-KD01-R01-01','P20261126-0007',1795672800000000,'{"plan_id":"P20261126-0007"}');
CREATE TABLE "reserved" (
   "session" TEXT,
   "until_utc_us" INTEGER NOT NULL,
   "why" TEXT,
   PRIMARY KEY ("session", "why")
);
INSERT INTO "reserved" VALUES('S20261126-KD01-R01-01',1795759200000000,'export 0123456789abcdef');
CREATE TABLE "scrub" (
   "id" INTEGER PRIMARY KEY,
   "pass" INTEGER,
   "began_utc_us" INTEGER,
   "stream" TEXT,
   "seq" INTEGER,
   "files" INTEGER,
   "bytes" INTEGER,
   "damaged" INTEGER,
   "last_began_utc_us" INTEGER,
   "last_ended_utc_us" INTEGER
);
INSERT INTO "scrub" VALUES(1,2,1795680000000000,'cam-front',1,1,1000,0,1795670000000000,1795680000000000);
CREATE TABLE "seen_card" (
   "seq" INTEGER PRIMARY KEY,
   "session" TEXT,
   "number" TEXT,
   "name" TEXT,
   "utc_us" INTEGER
);
INSERT INTO "seen_card" VALUES(8,'S20261126-KD01-R01-01','000000196603050099','样例辛',1795672807000000);
CREATE TABLE "segment" (
   "stream" TEXT,
   "seq" INTEGER,
   "path" TEXT,
   "run" TEXT,
   "start_utc_us" INTEGER,
   "end_utc_us" INTEGER,
   "start_boot_us" INTEGER,
   "end_boot_us" INTEGER,
   "boot_id" TEXT,
   "dur_us" INTEGER,
   "frame_us" INTEGER,
   "bytes" INTEGER,
   "sha256" TEXT,
   "sidecar_sha256" TEXT,
   "codec" TEXT,
   "end_reason" TEXT,
   "recovered" INTEGER,
   "clock_state" TEXT,
   "audio_peak_cdb" INTEGER,
   "silent_ms" INTEGER,
   "in_session" INTEGER,
   PRIMARY KEY ("stream", "seq")
);
INSERT INTO "segment" VALUES('cam-front',1,'cam-front/2026/11/26/0000000001-20261126T060000Z.mp4','00000000000000000000000000000000',1795672860000000,1795672920000000,5060000000,5120000000,'11111111-2222-3333-4444-555555555555',60000000,40000,1000,'1111111111111111111111111111111111111111111111111111111111111111','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','h264+aac','rotated',0,'synced',-2310,0,1);
INSERT INTO "segment" VALUES('cam-front',2,'cam-front/2026/11/26/0000000002-20261126T060000Z.mp4','00000000000000000000000000000000',1795672920000000,1795672980000000,5120000000,5180000000,'11111111-2222-3333-4444-555555555555',60000000,40000,1000,'2222222222222222222222222222222222222222222222222222222222222222','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','h264+aac','rotated',0,'synced',-2310,0,0);
CREATE TABLE "session_segment" (
   "session" TEXT,
   "stream" TEXT,
   "start_utc_us" INTEGER,
   "seq" INTEGER,
   "event_seq" INTEGER,
   PRIMARY KEY ("session", "stream", "seq")
);
INSERT INTO "session_segment" VALUES('S20261126-KD01-R01-01','cam-front',1795672860000000,1,9);
CREATE TABLE snapshot(id INTEGER PRIMARY KEY, session TEXT NOT NULL UNIQUE, body TEXT NOT NULL);
INSERT INTO "snapshot" VALUES(0,'','0000 {}');
INSERT INTO "snapshot" VALUES(1,'S20261126-KD01-R01-01','[]');
CREATE TABLE "unaccounted" (
   "id" INTEGER PRIMARY KEY,
   "from_utc_us" INTEGER NOT NULL,
   "to_utc_us" INTEGER NOT NULL,
   "why" TEXT NOT NULL,
   "told" INTEGER NOT NULL
);
INSERT INTO "unaccounted" VALUES(1,1,2,'restored',1);
CREATE INDEX "idx_event_session_seq"
    ON "event" ("session", "seq");
CREATE TRIGGER event_no_update BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER event_no_delete BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER event_no_insert_before BEFORE INSERT ON event WHEN NEW.seq <= (SELECT coalesce(max(seq), 0) FROM event) BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE INDEX "idx_person_subject"
    ON "person" ("subject");
CREATE INDEX "idx_checkin_session_seq"
    ON "checkin" ("session", "seq");
CREATE INDEX segment_idle ON segment(start_utc_us) WHERE in_session = 0;
CREATE INDEX "idx_session_segment_session_stream_start_utc_us"
    ON "session_segment" ("session", "stream", "start_utc_us");
CREATE INDEX "idx_envelope_session_kind_revision"
    ON "envelope" ("session", "kind", "revision");
CREATE UNIQUE INDEX "idx_outbox_digest"
    ON "outbox" ("digest");
CREATE INDEX session_segment_by_number ON session_segment(stream, seq);
CREATE INDEX event_folded ON event(seq) WHERE kind NOT IN ('SegmentStored','GapDeclared','FootageViewed','SessionExported','IdleFootageExpired');
COMMIT;
PRAGMA user_version=7;
