/* The least that a decision costs: the marks of a frame into a column, then every position and account anew, in
 * floats. No liquidation price, no rule, no message. */
#define _GNU_SOURCE
#include <math.h>
#include <stdint.h>
#include <string.h>

#define SLOTS 8192 /* of the table from name to symbol; a power of two, well above the number of symbols */
#define LEVELS 4

typedef struct {
    int32_t accounts, tiers;
    const char *names;                             /* of the symbols, each with a zero byte at its end */
    const int32_t *begins;                         /* account -> its first position; one more at the end */
    const int32_t *symbol;                         /* position -> symbol */
    const double *quantity, *entry;                /* position -> ... */
    const double *wallet;                          /* account -> ... */
    const double *floor, *rate, *amount;           /* tier -> ...; one more floor, infinite, at the end */
    const double *levels;
    double *marks;                                 /* symbol -> ... */
    int32_t *tier;                                 /* position -> the tier it was in when last seen */
    int32_t *level;                                /* account -> the level it was at when last seen */
} Book;

static const char *name_in[SLOTS];
static int32_t symbol_in[SLOTS];

static uint32_t slot_of(const char *name, size_t length) {
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ (uint8_t)name[i]) * 16777619u;
    while (name_in[hash % SLOTS] && (strncmp(name_in[hash % SLOTS], name, length) || name_in[hash % SLOTS][length])) hash++;
    return hash % SLOTS;
}

void learn_names(const Book *book, int32_t symbols) {
    const char *name = book->names;
    for (int32_t i = 0; i < symbols; i++, name += strlen(name) + 1) {
        uint32_t slot = slot_of(name, strlen(name));
        name_in[slot] = name;
        symbol_in[slot] = i;
    }
}

void scan(Book *book, const char *frame, int64_t length) {
    const char *end = frame + length;
    while ((frame = memmem(frame, end - frame, "\"s\":\"", 5))) {
        const char *name = frame + 5, *quote = memchr(name, '"', end - name);
        uint32_t slot = slot_of(name, quote - name);
        frame = memmem(quote, end - quote, "\"p\":\"", 5) + 5;
        int64_t digits = 0;
        double scale = 1;
        int fraction = 0;
        for (; *frame != '"'; frame++) {
            if (*frame == '.') { fraction = 1; continue; }
            digits = 10 * digits + (*frame - '0');
            if (fraction) scale *= 10;
        }
        if (name_in[slot]) book->marks[symbol_in[slot]] = digits / scale;
    }
}

/* Returns how many accounts are at another level than before; which ones is in `changed`. */
int32_t recompute(Book *book, int32_t *changed) {
    int32_t found = 0;
    for (int32_t a = 0; a < book->accounts; a++) {
        double pnl = 0, margin = 0;
        for (int32_t i = book->begins[a]; i < book->begins[a + 1]; i++) {
            double mark = book->marks[book->symbol[i]], quantity = book->quantity[i];
            double notional = fabs(quantity) * mark;
            int32_t tier = book->tier[i];
            while (notional < book->floor[tier]) tier--;
            while (notional >= book->floor[tier + 1]) tier++;
            book->tier[i] = tier;
            pnl += quantity * (mark - book->entry[i]);
            margin += notional * book->rate[tier] - book->amount[tier];
        }
        double balance = book->wallet[a] + pnl, ratio = balance > 0 ? margin / balance : 10;
        int32_t level = 0;
        for (int i = 0; i < LEVELS; i++) level += ratio >= book->levels[i];
        if (level != book->level[a]) {
            book->level[a] = level;
            changed[found++] = a;
        }
    }
    return found;
}
