"Every link of the built site: internal ones lead somewhere, nothing is loaded from another host."
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {   # tag -> the attribute whose file is loaded with the page
    'script': 'src', 'img': 'src', 'link': 'href', 'iframe': 'src', 'source': 'src', 'video': 'src', 'object': 'data'}


class Page(HTMLParser):
    "The anchors, the links and the loaded files of a page."
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.anchors, self.links, self.loaded = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ('id', 'name') if given.get(name)}
        if tag == 'a' and given.get('href'): self.links.append(given['href'])
        if tag in LOADED and given.get(LOADED[tag]): self.loaded.append(given[LOADED[tag]])
        for address in re.findall(r'url\(([^)]+)\)', given.get('style') or ''): self.loaded.append(address.strip('\'"'))

    def handle_data(self, data):
        if self.lasttag == 'noscript': return
        if self.lasttag == 'style': self.loaded += re.findall(r'@import\s+["\']([^"\']+)', data)


def is_outside(address): return bool(urlsplit(address).scheme or address.startswith('//'))


def read_site(folder):
    "Relative name -> Page, of every HTML file."
    folder = Path(folder)
    return {path.relative_to(folder).as_posix(): Page(path.read_text(encoding='utf-8'))
            for path in sorted(folder.rglob('*.html')) if '_static' not in path.parts}


def find_target(name, address, folder):
    "The file that an address on a page names, relative to the site; None where it leaves the site."
    path = unquote(urlsplit(address).path)
    target = (folder/name).parent/path if path else folder/name
    target = target.resolve()
    if target.is_dir(): target = target/'index.html'
    return target.relative_to(folder).as_posix() if target.is_relative_to(folder) else None


def check_link(name, address, pages, folder):
    "What is wrong with an internal address, in words; '' for nothing."
    target, fragment = find_target(name, address, folder), unquote(urlsplit(address).fragment)
    if target is None: return 'leaves the site'
    if target not in pages: return '' if (folder/target).exists() else 'is not there'
    if not fragment or fragment in pages[target].anchors: return ''
    return f'has no anchor {fragment}'


def check_site(folder):
    "Faults as (page, address, what), and the outside links as address -> pages."
    folder = Path(folder).resolve()
    pages, faults, outside = read_site(folder), [], {}
    for name, page in pages.items():
        for address in dict.fromkeys(page.loaded):
            if address.startswith('data:'): continue
            if is_outside(address): faults.append((name, address, 'is loaded from outside'))
            elif (wrong := check_link(name, address, pages, folder)): faults.append((name, address, wrong))
        for address in dict.fromkeys(page.links):
            if is_outside(address): outside.setdefault(address, []).append(name)
            elif (wrong := check_link(name, address, pages, folder)): faults.append((name, address, wrong))
    return faults, outside
