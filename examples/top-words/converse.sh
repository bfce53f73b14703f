#!/usr/bin/env bash
# Answers the requests of one connection, which is standard input and output: the most frequent words
# of each request's body, as JSON.
set -uo pipefail
export LC_ALL=C

most=${most:-10}

# Reads a request's head; its length and path become `length` and `path`. Fails at the end.
read_head() {
    local line
    read -r _ path _ || return 1
    length=0
    while read -r line && [[ ${line%$'\r'} ]]; do
        line=${line,,}
        [[ $line == content-length:* ]] && length=${line//[!0-9]/}
    done
    return 0
}

top_words() {
    tr 'A-Z' 'a-z' | tr -cs 'a-z' '\n' | sed '/^$/d' | sort | uniq -c | sort -k1,1nr -k2,2 |
        awk -v "most=$most" '
            BEGIN { printf "[" }
            NR <= most { printf "%s{\"word\":\"%s\",\"count\":%d}", (NR > 1 ? "," : ""), $2, $1 }
            END { print "]" }'
}

answer() { # status, body
    printf 'HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' \
        "$1" "${#2}" "$2"
}

while read_head; do
    if [[ $path == /invoke* ]]; then
        result=$(head -c "$length" | top_words)
        echo "counted the words of $length bytes" >&2
        answer '200 OK' "$result"
    else
        head -c "$length" >/dev/null
        answer '404 Not Found' '{}'
    fi
done
