"""The corpus of the examples: software packages, described in one sentence each."""

PACKAGES = {
    "gimp": "An image editor for photo retouching, image composition and image authoring.",
    "inkscape": "A vector drawing program for illustrations, icons, logos and diagrams.",
    "ffmpeg": "Tools to record, convert and stream audio and video in many formats.",
    "audacity": "A fast, cross-platform audio editor to record and edit sound.",
    "git": "A fast, scalable, distributed revision control system for source code.",
    "gcc": "The GNU C compiler, an optimizing compiler for the C language.",
    "gdb": "A source-level debugger that shows what a program does, or why it crashed.",
    "nginx": "A small, powerful and scalable web server and reverse proxy.",
    "postgresql": "An object-relational SQL database management system.",
    "rsync": "A fast and versatile tool to copy files to another host and keep them in sync.",
    "wireshark": "A network traffic analyzer that captures and shows the packets on the wire.",
    "nmap": "A utility for network exploration and security auditing that scans ports.",
    "thunderbird": "A mail and news client with a calendar, contacts and spam filters.",
    "libreoffice": "An office suite with a word processor, spreadsheets and presentations.",
    "vlc": "A multimedia player that plays video files, discs and network streams.",
    "stellarium": "A planetarium that shows the stars and planets of a realistic night sky.",
}
