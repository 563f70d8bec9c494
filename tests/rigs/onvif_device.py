#!/usr/bin/env python3
"""An ONVIF camera's control side on loopback, written from the specifications (WS-Discovery 2005/04, ONVIF Core, Media 1, Media 2).

Real UDP (a probe to its own port, or multicast), real SOAP 1.2 over HTTP, WS-Security UsernameToken with digest, nonce kept against
replay and `Created` compared with the camera's own clock. It sends no picture: name an RTSP server's address with --rtsp.
It prints `ready HTTPPORT UDPPORT` when it listens; end it with SIGTERM. Every password it gets in the clear is a line `CLEAR` on its
standard error, so that a test sees a client that gives it away. --fault makes it hostile.

Run:    onvif_device.py --auth room:secret --codec H264 --gop 25 --constant --sound G711 --rtsp rtsp://127.0.0.1:8554/cam1
Faults: silent (takes the connection, says nothing), drip (a byte a second, for ever), huge (a body without end), bomb (XML entities),
        garbage (no XML), html (a web server that knows no ONVIF), wrong (words for numbers, impossible dates, terminal escapes),
        unavailable (HTTP 503), no-media (a device without a media service), fuzz (true answers, spoilt here and there).
LIMIT: one encoder per profile, two profiles; no HTTPS; nothing can be set.
"""
import argparse
import base64
import hashlib
import http.server
import random
import re
import signal
import socket
import sys
import threading
import time
import uuid

NS = ('xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:tds="http://www.onvif.org/ver10/device/wsdl" '
      'xmlns:trt="http://www.onvif.org/ver10/media/wsdl" xmlns:tr2="http://www.onvif.org/ver20/media/wsdl" '
      'xmlns:tt="http://www.onvif.org/ver10/schema" xmlns:ter="http://www.onvif.org/ver10/error"')
PRE_AUTH = {"GetSystemDateAndTime", "GetCapabilities", "GetServices"}
FRESH_S = 60
BOMB = ('<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a0 "ha">'
        + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)) + "]><b>&a9;</b>")


class Camera:
    def __init__(self, options: argparse.Namespace) -> None:
        self.o = options
        self.user, _, self.password = options.auth.partition(":")
        self.nonces: set[str] = set()
        self.base = ""

    def now(self) -> float:
        return time.time() + self.o.clock

    # ---- WS-Security (UsernameToken Profile 1.0): digest = base64(sha1(nonce + created + password)) ----

    def accepts(self, request: str) -> bool:
        if not self.user:
            return True
        def part(name: str) -> str:
            found = re.search(rf"<(?:\w+:)?{name}\b[^>]*>([^<]*)</", request)
            return found[1].strip() if found else ""
        if "#PasswordText" in request:
            print("CLEAR", file=sys.stderr, flush=True)
            return False
        nonce, created = part("Nonce"), part("Created")
        if part("Username") != self.user or not nonce or nonce in self.nonces:
            return False
        try:
            when = time.strptime(re.sub(r"\.\d+", "", created), "%Y-%m-%dT%H:%M:%SZ")
        except ValueError:
            return False
        import calendar
        if abs(calendar.timegm(when) - self.now()) > FRESH_S:
            return False
        self.nonces.add(nonce)
        digest = hashlib.sha1(base64.b64decode(nonce) + created.encode() + self.password.encode()).digest()
        return part("Password") == base64.b64encode(digest).decode()

    # ---- answers ----

    def answer(self, request: str) -> tuple[int, str]:
        body = re.search(r"<s:Body>\s*<(?:(\w+):)?(\w+)", request)
        if body is None:
            return 400, self.fault("s:Sender", "ter:WellFormed", "Well-formed Error")
        prefix, operation = body[1], body[2]
        if operation not in PRE_AUTH and not self.accepts(request):
            return 401 if self.o.plain_401 else 400, self.fault("s:Sender", "ter:NotAuthorized", "Sender not Authorized")
        second = "ver20/media" in (re.search(rf'xmlns:{prefix}="([^"]*)"', request) or [None, ""])[1]
        made = getattr(self, f"do_{operation}", None)
        if made is None or (second and self.o.media == "1") or (prefix == "trt" and self.o.media == "2"):
            return 400, self.fault("s:Sender", "ter:ActionNotSupported", "Optional Action Not Implemented")
        return 200, f'<?xml version="1.0" encoding="UTF-8"?><s:Envelope {NS}><s:Body>{made(request, second)}</s:Body></s:Envelope>'

    @staticmethod
    def fault(code: str, sub: str, text: str) -> str:
        return (f"<s:Envelope {NS}><s:Body><s:Fault><s:Code><s:Value>{code}</s:Value><s:Subcode><s:Value>{sub}</s:Value></s:Subcode>"
                f'</s:Code><s:Reason><s:Text xml:lang="en">{text}</s:Text></s:Reason></s:Fault></s:Body></s:Envelope>')

    def do_GetSystemDateAndTime(self, *_) -> str:
        t = time.gmtime(self.now())
        year = 99999 if self.o.fault == "wrong" else t.tm_year
        return ("<tds:GetSystemDateAndTimeResponse><tds:SystemDateAndTime><tt:DateTimeType>NTP</tt:DateTimeType>"
                "<tt:DaylightSavings>false</tt:DaylightSavings><tt:UTCDateTime>"
                f"<tt:Time><tt:Hour>{t.tm_hour}</tt:Hour><tt:Minute>{t.tm_min}</tt:Minute><tt:Second>{t.tm_sec}</tt:Second></tt:Time>"
                f"<tt:Date><tt:Year>{year}</tt:Year><tt:Month>{t.tm_mon}</tt:Month><tt:Day>{t.tm_mday}</tt:Day></tt:Date>"
                "</tt:UTCDateTime></tds:SystemDateAndTime></tds:GetSystemDateAndTimeResponse>")

    def do_GetServices(self, *_) -> str:
        services = {"device_service": "http://www.onvif.org/ver10/device/wsdl"}
        if self.o.fault != "no-media":
            services |= {"media": "http://www.onvif.org/ver10/media/wsdl"} if self.o.media != "2" else {}
            services |= {"media2": "http://www.onvif.org/ver20/media/wsdl"} if self.o.media != "1" else {}
        where = self.o.claim or self.base        # cameras behind a router name an address of their own
        return "<tds:GetServicesResponse>" + "".join(
            f"<tds:Service><tds:Namespace>{ns}</tds:Namespace><tds:XAddr>{where}/onvif/{path}</tds:XAddr><tds:Version><tt:Major>2</tt:Major>"
            "<tt:Minor>0</tt:Minor></tds:Version></tds:Service>" for path, ns in services.items()) + "</tds:GetServicesResponse>"

    def do_GetDeviceInformation(self, *_) -> str:
        model = "M1 &#x9b;31m\u202e" + "x" * 500 if self.o.fault == "wrong" else "M1"
        return ("<tds:GetDeviceInformationResponse><tds:Manufacturer>Example</tds:Manufacturer>"
                f"<tds:Model>{model}</tds:Model><tds:FirmwareVersion>1.2.3</tds:FirmwareVersion><tds:SerialNumber>7</tds:SerialNumber>"
                "<tds:HardwareId>1</tds:HardwareId></tds:GetDeviceInformationResponse>")

    def do_GetProfiles(self, _: str, second: bool) -> str:
        main = self.profile("main", "Main stream", second, self.o.codec, 1920, 1080, self.o.fps, self.o.gop, self.o.kbps)
        sub = self.profile("sub", "Sub stream", second, "JPEG", 640, 360, 5, 1, 512)
        name = "tr2:GetProfilesResponse" if second else "trt:GetProfilesResponse"
        return f"<{name}>{main}{sub}</{name}>"

    def profile(self, token, name, second, codec, width, height, fps, gop, kbps) -> str:
        if self.o.fault == "wrong":
            width, gop, kbps, fps = "wide", "1e400", "9" * 3000, "-3"
        size = f"<tt:Resolution><tt:Width>{width}</tt:Width><tt:Height>{height}</tt:Height></tt:Resolution>"
        limits = f"<tt:FrameRateLimit>{fps}</tt:FrameRateLimit>"
        if second:
            cbr = "" if self.o.constant is None else f' ConstantBitRate="{str(self.o.constant).lower()}"'
            sound = f'<tr2:AudioEncoder token="a"><tt:Encoding>{self.o.sound}</tt:Encoding></tr2:AudioEncoder>' if self.o.sound else ""
            return (f'<tr2:Profiles token="{token}" fixed="true"><tr2:Name>{name}</tr2:Name><tr2:Configurations>'
                    f'<tr2:VideoEncoder token="v{token}" GovLength="{gop}" Profile="Main"><tt:Name>v</tt:Name><tt:UseCount>1</tt:UseCount>'
                    f"<tt:Encoding>{codec}</tt:Encoding>{size}<tt:RateControl{cbr}>{limits}<tt:BitrateLimit>{kbps}</tt:BitrateLimit>"
                    f"</tt:RateControl><tt:Quality>5</tt:Quality></tr2:VideoEncoder>{sound}</tr2:Configurations></tr2:Profiles>")
        inner = f"<tt:H264><tt:GovLength>{gop}</tt:GovLength><tt:H264Profile>Main</tt:H264Profile></tt:H264>" if codec == "H264" else ""
        sound = (f'<tt:AudioEncoderConfiguration token="a"><tt:Name>a</tt:Name><tt:Encoding>{self.o.sound}</tt:Encoding>'
                 "<tt:Bitrate>64</tt:Bitrate><tt:SampleRate>8</tt:SampleRate></tt:AudioEncoderConfiguration>") if self.o.sound else ""
        return (f'<trt:Profiles token="{token}" fixed="true"><tt:Name>{name}</tt:Name><tt:VideoEncoderConfiguration token="v{token}">'
                f"<tt:Name>v</tt:Name><tt:UseCount>1</tt:UseCount><tt:Encoding>{codec}</tt:Encoding>{size}<tt:Quality>5</tt:Quality>"
                f"<tt:RateControl>{limits}<tt:EncodingInterval>1</tt:EncodingInterval><tt:BitrateLimit>{kbps}</tt:BitrateLimit>"
                f"</tt:RateControl>{inner}</tt:VideoEncoderConfiguration>{sound}</trt:Profiles>")

    def do_GetStreamUri(self, request: str, second: bool) -> str:
        rtsp = self.o.rtsp if ">main<" in request else self.o.rtsp + "-sub"
        if second:
            return f"<tr2:GetStreamUriResponse><tr2:Uri>{rtsp}</tr2:Uri></tr2:GetStreamUriResponse>"
        return f"<trt:GetStreamUriResponse><trt:MediaUri><tt:Uri>{rtsp}</tt:Uri></trt:MediaUri></trt:GetStreamUriResponse>"


class Handler(http.server.BaseHTTPRequestHandler):
    camera: Camera

    def do_POST(self) -> None:
        request = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode("utf-8", "replace")
        if "Basic" in self.headers.get("Authorization", ""):
            print("CLEAR", file=sys.stderr, flush=True)
        kind = self.camera.o.fault
        if kind == "silent":
            threading.Event().wait()
        if kind == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(1)
        if kind == "huge":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/soap+xml\r\nContent-Length: 99999999999\r\n\r\n<a>")
            while True:
                self.wfile.write(b"x" * 65536)
        status, text = {"bomb": (200, BOMB), "garbage": (200, "\0\1 no XML <<<"), "unavailable": (503, ""),
                        "html": (200, "<!doctype html><title>Router</title><p>Hello")}.get(kind) or self.camera.answer(request)
        data = text.encode()
        if kind == "fuzz":
            data = spoil(data)
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
        self.send_header("Content-Type", "application/soap+xml; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_) -> None:
        pass


CHANCE = random.Random(20261124)
WORDS = [b"", b"-1", b"1e400", b"9" * 5000, b"NaN", b"<", b">", b"&", b"\0", b"\xff\xfe", b"<a>" * 3000, b"]]>", b"99999999999999999999", b" ", b"true"]


def spoil(data: bytes) -> bytes:
    """An answer with some of its texts, tags or bytes replaced: another one each time, the same ones each run."""
    parts = re.split(rb"([<>\"])", data)
    texts = [n for n in range(1, len(parts)) if parts[n - 1] == b">" and parts[n]] or [0]
    for _ in range(CHANCE.randint(1, 3)):
        where = CHANCE.choice(texts) if CHANCE.random() < 0.9 else CHANCE.randrange(len(parts))
        parts[where] = CHANCE.choice(WORDS)
    return b"".join(parts)


def discover(camera: Camera, udp: socket.socket) -> None:
    """Answer probes that ask for one of our types, or for none (WS-Discovery 5.2): every type that is named must be ours."""
    while True:
        data, sender = udp.recvfrom(65535)
        text = data.decode("utf-8", "replace")
        found = re.search(r"<(?:\w+:)?Types[^>]*>([^<]*)<", text)
        asked = {t.rpartition(":")[2] for t in (found[1] if found else "").split()}
        message = re.search(r"<(?:\w+:)?MessageID[^>]*>([^<]*)<", text)
        if "/discovery/Probe<" not in text or message is None or not asked <= set(camera.o.types.split()):
            continue
        if camera.o.fault == "bomb":
            udp.sendto(BOMB.encode(), sender)
        udp.sendto(
            ('<?xml version="1.0" encoding="UTF-8"?><s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" '
             'xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:d="http://schemas.xmlsoap.org/ws/2005/04/discovery" '
             'xmlns:dn="http://www.onvif.org/ver10/network/wsdl"><s:Header>'
             f"<a:MessageID>urn:uuid:{uuid.uuid4()}</a:MessageID><a:RelatesTo>{message[1]}</a:RelatesTo>"
             "<a:Action>http://schemas.xmlsoap.org/ws/2005/04/discovery/ProbeMatches</a:Action></s:Header><s:Body><d:ProbeMatches>"
             f"<d:ProbeMatch><a:EndpointReference><a:Address>urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, camera.base)}</a:Address>"
             "</a:EndpointReference><d:Types>dn:NetworkVideoTransmitter</d:Types>"
             f"<d:Scopes>onvif://www.onvif.org/Profile/Streaming</d:Scopes><d:XAddrs>{camera.o.xaddr or camera.base + '/onvif/device_service'}"
             "</d:XAddrs><d:MetadataVersion>1</d:MetadataVersion></d:ProbeMatch></d:ProbeMatches></s:Body></s:Envelope>").encode(), sender)


def listen_udp(multicast: bool, address: str) -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if multicast:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.bind(("239.255.255.250", 3702))
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.255.255.250") + socket.inet_aton(address))
    else:
        udp.bind((address, 0))
    return udp


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--auth", default="", help="user:password; none asked for if left out")
    p.add_argument("--plain-401", action="store_true", help="refuse with HTTP 401 and a Basic challenge instead of a SOAP fault")
    p.add_argument("--clock", type=float, default=0.0, help="seconds that the camera's clock is ahead")
    p.add_argument("--media", choices=("1", "2", "both"), default="both")
    p.add_argument("--codec", default="H264")
    p.add_argument("--fps", type=int, default=25)
    p.add_argument("--gop", type=int, default=25)
    p.add_argument("--kbps", type=int, default=4096)
    p.add_argument("--constant", action=argparse.BooleanOptionalAction, default=None)
    p.add_argument("--sound", default="")
    p.add_argument("--rtsp", default="rtsp://127.0.0.1:8554/cam1")
    p.add_argument("--types", default="NetworkVideoTransmitter", help="WS-Discovery types, apart by spaces")
    p.add_argument("--xaddr", default="", help="what to name as device service to who searches")
    p.add_argument("--claim", default="", help="http://host:port to name in GetServices")
    p.add_argument("--multicast", action="store_true", help="hear searches on 239.255.255.250 instead of a port of its own")
    p.add_argument("--on", default="127.0.0.1", help="own address to listen on")
    p.add_argument("--fault", default="")
    camera = Camera(p.parse_args())
    Handler.camera = camera
    server = http.server.ThreadingHTTPServer((camera.o.on, 0), Handler)
    server.daemon_threads = True
    camera.base = f"http://{camera.o.on}:{server.server_port}"
    udp = listen_udp(camera.o.multicast, camera.o.on)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=discover, args=(camera, udp), daemon=True).start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", server.server_port, udp.getsockname()[1], flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
