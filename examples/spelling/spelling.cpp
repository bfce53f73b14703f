// Finds words that a dictionary does not have and proposes those it has that are nearest: a function
// in C++ that uses nothing but the standard library and POSIX.
//
// It serves HTTP/1.1 on 127.0.0.1:$PORT with one thread for each connection: POST /init loads the
// dictionary, and POST /invoke takes a text and answers JSON.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace {

constexpr std::size_t kLongestHead = 64 * 1024;
constexpr int kFarthest = 2;
constexpr std::size_t kMostProposals = 3;

struct Entry {
    std::string word;
    long count;
};

struct Dictionary {
    std::vector<Entry> entries;
    std::unordered_map<std::string, long> counts;
};

Dictionary dictionary;

bool load_dictionary(const char *path) {
    std::ifstream file(path);
    Dictionary loaded;
    Entry entry;
    while (file >> entry.word >> entry.count) {
        loaded.counts[entry.word] = entry.count;
        loaded.entries.push_back(entry);
    }
    dictionary = std::move(loaded);
    return !dictionary.entries.empty();
}

// How many letters must be inserted, deleted, replaced or swapped with their neighbour to make one
// word of the other; more than kFarthest is not told exactly.
int distance(const std::string &one, const std::string &other) {
    const std::size_t width = other.size() + 1;
    if (one.size() > other.size() + kFarthest || other.size() > one.size() + kFarthest) {
        return kFarthest + 1;
    }
    std::vector<int> before(width), above(width), row(width);
    for (std::size_t j = 0; j < width; ++j) above[j] = static_cast<int>(j);
    for (std::size_t i = 1; i <= one.size(); ++i) {
        row[0] = static_cast<int>(i);
        for (std::size_t j = 1; j < width; ++j) {
            const int replaced = above[j - 1] + (one[i - 1] == other[j - 1] ? 0 : 1);
            row[j] = std::min({above[j] + 1, row[j - 1] + 1, replaced});
            if (i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1]) {
                row[j] = std::min(row[j], before[j - 2] + 1);
            }
        }
        std::swap(before, above);
        std::swap(above, row);
    }
    return above[width - 1];
}

std::vector<std::string> proposals(const std::string &word) {
    struct Candidate {
        int distance;
        const Entry *entry;
    };
    std::vector<Candidate> near;
    for (const Entry &entry : dictionary.entries) {
        const int found = distance(word, entry.word);
        if (found <= kFarthest) near.push_back({found, &entry});
    }
    const auto better = [](const Candidate &a, const Candidate &b) {
        if (a.distance != b.distance) return a.distance < b.distance;
        if (a.entry->count != b.entry->count) return a.entry->count > b.entry->count;
        return a.entry->word < b.entry->word;
    };
    std::sort(near.begin(), near.end(), better);
    std::vector<std::string> words;
    for (std::size_t i = 0; i < std::min(near.size(), kMostProposals); ++i) {
        words.push_back(near[i].entry->word);
    }
    return words;
}

// Words are runs of ASCII letters, in lower case: nothing in them needs escaping in JSON.
std::vector<std::string> words_of(const std::string &text) {
    std::vector<std::string> words;
    std::string word;
    for (const char letter : text + " ") {
        if (std::isalpha(static_cast<unsigned char>(letter)) != 0) {
            word += static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
        } else if (!word.empty()) {
            words.push_back(std::move(word));
            word.clear();
        }
    }
    return words;
}

std::string check(const std::string &text) {
    const std::vector<std::string> words = words_of(text);
    std::unordered_map<std::string, bool> seen;
    std::string unknown;
    for (const std::string &word : words) {
        if (dictionary.counts.count(word) != 0 || !seen.emplace(word, true).second) continue;
        if (!unknown.empty()) unknown += ", ";
        unknown += '"' + word + "\": [";
        bool first = true;
        for (const std::string &proposal : proposals(word)) {
            unknown += (first ? "\"" : ", \"") + proposal + '"';
            first = false;
        }
        unknown += ']';
    }
    std::cout << "checked " << words.size() << " words" << std::endl;
    return "{\"words\": " + std::to_string(words.size()) + ", \"unknown\": {" + unknown + "}}\n";
}

struct Request {
    std::string path;
    std::string body;
};

// One connection: what was read of it and not used yet.
class Connection {
public:
    explicit Connection(int socket) : socket_(socket) {}
    ~Connection() { close(socket_); }
    Connection(const Connection &) = delete;
    Connection &operator=(const Connection &) = delete;

    // The next request; none at the end of the connection, or if what comes is no request.
    std::optional<Request> next() {
        std::size_t end = 0;
        while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
            if (buffer_.size() > kLongestHead || !read_more()) return std::nullopt;
        }
        const std::string head = buffer_.substr(0, end + 2);
        const std::size_t begin = end + 4;
        const std::size_t length = content_length(head);
        while (buffer_.size() < begin + length) {
            if (!read_more()) return std::nullopt;
        }
        Request request;
        const std::size_t path = head.find(' ') + 1;
        request.path = head.substr(path, head.find_first_of(" ?\r", path) - path);
        request.body = buffer_.substr(begin, length);
        buffer_.erase(0, begin + length);
        return request;
    }

    bool answer(const char *status, const std::string &body) {
        const std::string message = std::string("HTTP/1.1 ") + status +
                                    "\r\nContent-Type: application/json\r\nContent-Length: " +
                                    std::to_string(body.size()) + "\r\n\r\n" + body;
        std::size_t sent = 0;
        while (sent < message.size()) {
            const ssize_t count =
                send(socket_, message.data() + sent, message.size() - sent, MSG_NOSIGNAL);
            if (count <= 0) return false;
            sent += static_cast<std::size_t>(count);
        }
        return true;
    }

private:
    bool read_more() {
        char piece[16 * 1024];
        const ssize_t count = recv(socket_, piece, sizeof piece, 0);
        if (count <= 0) return false;
        buffer_.append(piece, static_cast<std::size_t>(count));
        return true;
    }

    static std::size_t content_length(std::string head) {
        std::transform(head.begin(), head.end(), head.begin(),
                       [](unsigned char letter) { return std::tolower(letter); });
        const std::string name = "\r\ncontent-length:";
        const std::size_t at = head.find(name);
        return at == std::string::npos ? 0 : std::strtoul(&head[at + name.size()], nullptr, 10);
    }

    int socket_;
    std::string buffer_;
};

void serve(int socket) {
    Connection connection(socket);
    while (const std::optional<Request> request = connection.next()) {
        bool sent = false;
        if (request->path == "/invoke") {
            sent = connection.answer("200 OK", check(request->body));
        } else if (request->path == "/init" && load_dictionary("text/words.txt")) {
            sent = connection.answer("200 OK", "{}");
        } else if (request->path == "/init") {
            sent = connection.answer("500 Internal Server Error", "text/words.txt has no words\n");
        } else {
            sent = connection.answer("404 Not Found", "{}");
        }
        if (!sent) return;
    }
}

int listen_on(int port) {
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    const int on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const auto *generic = reinterpret_cast<const sockaddr *>(&address);
    if (bind(listener, generic, sizeof address) != 0 || listen(listener, 128) != 0) return -1;
    return listener;
}

}  // namespace

int main() {
    const char *port = std::getenv("PORT");
    const int listener = listen_on(port == nullptr ? 8000 : std::atoi(port));
    if (listener < 0) {
        std::perror("listen");
        return 1;
    }
    while (true) {
        const int socket = accept(listener, nullptr, nullptr);
        if (socket < 0) continue;
        const int on = 1;
        setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        std::thread(serve, socket).detach();
    }
}
