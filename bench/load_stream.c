/*
 * What is published, and the check of what arrives.
 *
 * A message is text: 16 digits for its stream (8 for the run, 8 for the channel), 8 for its number, 16 for the time
 * of its publishing, 16 for a hash of all the rest, then a filling that differs from message to message.
 *
 * What a listener has to receive is known byte by byte, so arriving bytes are compared with that and nothing else is
 * done to them. Where they differ, that client's bytes are taken apart frame by frame, until they fit again.
 */
#define _GNU_SOURCE
#include "load.h"

#include <stdlib.h>
#include <string.h>

#define WARM_UP 0xffffffffu /* the number of messages before the first one */
#define PATTERN (1 << 20)
#define MOST_GAPS 4096

struct stream *streams;
uint32_t stream_count;
struct failures failures;
struct histogram latencies;
uint64_t deliveries, messages, foreign, outstanding, last_progress;
struct stream **ready_streams;
uint32_t ready_count;

static uint32_t run; /* differs from case to case: messages of another one are not counted */
static uint32_t size, head_size, frame_size, slots;
static uint8_t pattern[2 * PATTERN];

/* ---------------------------------------------------------------- one message */

static void write_hex(uint8_t *at, uint64_t value, int digits)
{
    for (at += digits; digits--; value >>= 4)
        *--at = "0123456789abcdef"[value & 15];
}

static bool read_hex(const uint8_t *at, int digits, uint64_t *value)
{
    for (*value = 0; digits--; at++) {
        if (*at >= '0' && *at <= '9')
            *value = *value << 4 | (*at - '0');
        else if (*at >= 'a' && *at <= 'f')
            *value = *value << 4 | (*at - 'a' + 10);
        else
            return false;
    }
    return true;
}

static uint64_t mix(uint64_t hash, const uint8_t *data, size_t length)
{
    uint64_t word;
    for (; length >= 8; data += 8, length -= 8) {
        memcpy(&word, data, 8);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 32;
    }
    for (; length; data++, length--)
        hash = (hash ^ *data) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 29;
}

static uint64_t hash_of(const uint8_t *payload, size_t length)
{
    return mix(mix(length, payload, 40), payload + HEADER, length - HEADER);
}

static void write_message(uint8_t *payload, size_t length, uint32_t stream, uint32_t number, uint64_t at)
{
    write_hex(payload, run, 8);
    write_hex(payload + 8, stream, 8);
    write_hex(payload + 16, number, 8);
    write_hex(payload + 24, at, 16);
    memcpy(payload + HEADER, pattern + (number * 61u + stream * 17u) % PATTERN, length - HEADER);
    write_hex(payload + 40, hash_of(payload, length), 16);
}

/* ---------------------------------------------------------------- the streams of a case */

void streams_prepare(uint32_t count, const char *channel)
{
    uint32_t random = 1;
    for (size_t i = 0; i < sizeof pattern; i++) {
        random = random * 1664525u + 1013904223u;
        pattern[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 ."[random >> 26];
    }
    memcpy(pattern + PATTERN, pattern, PATTERN);
    run = (uint32_t)now_ns() | 1;
    stream_count = count;
    streams = sure(calloc(count, sizeof *streams));
    ready_streams = sure(calloc(count, sizeof *ready_streams));
    for (uint32_t i = 0; i < count; i++) {
        streams[i].channel = numbered(channel, i);
        streams[i].channel_size = strlen(streams[i].channel);
    }
}

void streams_begin(uint32_t message_size, uint32_t least_slots)
{
    run += 2;
    size = message_size;
    head_size = size < 126 ? 2 : size < 65536 ? 4 : 10;
    frame_size = head_size + size;
    for (slots = 1; slots < least_slots; slots *= 2)
        ;
    for (uint32_t i = 0; i < stream_count; i++) {
        struct stream *stream = &streams[i];
        free(stream->ring);
        free(stream->published);
        free(stream->missing);
        stream->ring = sure(malloc((size_t)slots * frame_size));
        stream->published = sure(calloc(slots, sizeof *stream->published));
        stream->missing = sure(calloc(slots, sizeof *stream->missing));
        stream->base = stream->next = 0;
        stream->queued = true;
        ready_streams[i] = stream;
    }
    ready_count = stream_count;
    memset(&failures, 0, sizeof failures);
    histogram_clear(&latencies);
    deliveries = messages = foreign = outstanding = 0;
}

uint32_t stream_slots(void)
{
    return slots;
}

uint32_t stream_size(void)
{
    return size;
}

const uint8_t *stream_message(struct stream *stream, uint64_t at, const uint8_t **whole)
{
    uint32_t slot = stream->next & (slots - 1);
    uint8_t *frame = stream->ring + (size_t)slot * frame_size;
    frame[0] = 0x81;
    if (size < 126) {
        frame[1] = size;
    } else {
        frame[1] = size < 65536 ? 126 : 127;
        for (uint32_t i = 2; i < head_size; i++)
            frame[i] = (uint64_t)size >> (8 * (head_size - 1 - i));
    }
    write_message(frame + head_size, size, stream - streams, stream->next, at);
    stream->published[slot] = at;
    stream->missing[slot] = stream->listeners;
    stream->next++;
    outstanding += stream->listeners;
    messages++;
    if (whole)
        *whole = frame;
    return frame + head_size;
}

const uint8_t *stream_warm_up(struct stream *stream, uint32_t number, size_t *length)
{
    static uint8_t payload[HEADER];
    *length = HEADER;
    write_message(payload, HEADER, stream - streams, WARM_UP, number);
    return payload;
}

/* ---------------------------------------------------------------- what arrives */

static void account(struct stream *stream, uint64_t number)
{
    outstanding--;
    if (--stream->missing[number & (slots - 1)] == 0 && number == stream->base) {
        while (stream->base < stream->next && stream->missing[stream->base & (slots - 1)] == 0)
            stream->base++;
        if (!stream->queued) {
            stream->queued = true;
            ready_streams[ready_count++] = stream;
        }
    }
}

static void delivered(struct stream *stream, uint64_t number)
{
    uint64_t at = stream->published[number & (slots - 1)];
    histogram_add(&latencies, clock_now > at ? clock_now - at : 0);
    deliveries++;
    account(stream, number);
}

static void skip_to(struct client *client, uint64_t number)
{
    for (; client->next < number; client->next++) {
        failures.lost++;
        if (client->gap_count < MOST_GAPS) {
            client->gaps = sure(realloc(client->gaps, (client->gap_count + 1) * sizeof *client->gaps));
            client->gaps[client->gap_count++] = client->next;
        }
        account(client->stream, client->next);
    }
}

/* From here on its bytes are taken apart; `part` of them are those of the frame expected. */
static void go_slowly(struct client *client)
{
    append(&client->rest, client->stream->ring + (client->next & (slots - 1)) * (size_t)frame_size, client->part);
    client->part = 0;
    client->slow = true;
}

void give_up(struct client *client)
{
    if (!client->slow && client->part)
        go_slowly(client);
    skip_to(client, client->stream->next);
    client->gap_count = 0;
}

static bool was_gap(struct client *client, uint64_t number)
{
    for (uint32_t i = 0; i < client->gap_count; i++) {
        if (client->gaps[i] == number) {
            client->gaps[i] = client->gaps[--client->gap_count];
            return true;
        }
    }
    return false;
}

static void corrupt(struct client *client)
{
    failures.corrupt++;
    if (client->next < client->stream->next) /* in the place of the one that should have come */
        account(client->stream, client->next++);
}

static void message(struct client *client, const uint8_t *payload, size_t length)
{
    struct stream *stream = client->stream;
    uint64_t of_run, of_stream, number, at, hash;
    if (length < HEADER || !read_hex(payload, 8, &of_run) || !read_hex(payload + 8, 8, &of_stream) ||
        !read_hex(payload + 16, 8, &number) || !read_hex(payload + 24, 16, &at) ||
        !read_hex(payload + 40, 16, &hash) || hash != hash_of(payload, length)) {
        if (client->next < stream->next)
            corrupt(client);
        else
            foreign++;
    } else if (of_run != run) {
        foreign++;
    } else if (of_stream != (uint64_t)(stream - streams)) {
        failures.stray++;
    } else if (number == WARM_UP) {
        client->warm = at;
    } else if (length != size || number >= stream->next) {
        corrupt(client);
    } else if (number >= client->next) {
        skip_to(client, number);
        delivered(stream, client->next++);
    } else if (was_gap(client, number)) {
        failures.lost--;
        failures.disordered++;
    } else {
        failures.duplicated++;
    }
}

/* One frame: its size, 0 if it is not whole. */
static size_t frame(struct client *client, const uint8_t *data, size_t length)
{
    uint64_t payload_size;
    size_t head = 2;
    if (length < 2)
        return 0;
    payload_size = data[1] & 127;
    if (payload_size >= 126) {
        head = payload_size == 126 ? 4 : 10;
        if (length < head)
            return 0;
        payload_size = 0;
        for (size_t i = 2; i < head; i++)
            payload_size = payload_size << 8 | data[i];
    }
    if (data[0] & 0x70 || data[1] & 0x80 || payload_size > (1u << 30)) {
        failures.corrupt++; /* reserved bits, a masked frame: from here on nothing can be found again */
        client_close(client);
        return length;
    }
    if (length - head < payload_size)
        return 0;
    const uint8_t *payload = data + head;
    uint8_t opcode = data[0] & 15;
    if (opcode == 9) {
        pings++;
        client_send(client, 10, payload, payload_size);
    } else if (opcode == 8) {
        client_close(client);
        return length;
    } else if (client->stream && opcode < 3) {
        if (data[0] & 0x80 && opcode) {
            message(client, payload, payload_size);
        } else {
            append(&client->fragments, payload, payload_size);
            if (data[0] & 0x80) {
                message(client, client->fragments.data, client->fragments.size);
                release(&client->fragments);
            }
        }
    }
    return head + payload_size;
}

static void received_slowly(struct client *client, const uint8_t *data, size_t length)
{
    size_t at = 0, used;
    if (client->rest.size) {
        append(&client->rest, data, length);
        data = client->rest.data;
        length = client->rest.size;
    }
    while (at < length && (used = frame(client, data + at, length - at)) > 0)
        at += used;
    if (client->state != OPEN)
        return;
    size_t left = length - at;
    struct stream *stream = client->stream;
    const uint8_t *expected =
        stream && client->next < stream->next ? stream->ring + (client->next & (slots - 1)) * (size_t)frame_size : NULL;
    client->slow = left && !(expected && left < frame_size && memcmp(expected, data + at, left) == 0);
    if (!client->slow) {
        client->part = left;
        release(&client->rest);
    } else if (client->rest.size) {
        drop_front(&client->rest, at);
    } else {
        append(&client->rest, data + at, left);
    }
}

void received(struct client *client, const uint8_t *data, size_t length)
{
    struct stream *stream = client->stream;
    while (length && stream && !client->slow) {
        uint32_t slot = client->next & (slots - 1);
        uint64_t known = stream->next - client->next;
        const uint8_t *expected = stream->ring + (size_t)slot * frame_size + client->part;
        size_t room = (known < slots - slot ? known : slots - slot) * (size_t)frame_size;
        size_t take = room > client->part ? room - client->part : 0;
        if (take > length)
            take = length;
        if (take == 0 || memcmp(expected, data, take) != 0) {
            go_slowly(client);
            break;
        }
        size_t whole = (client->part + take) / frame_size;
        client->part = (client->part + take) % frame_size;
        for (; whole; whole--)
            delivered(stream, client->next++);
        data += take;
        length -= take;
    }
    if (length)
        received_slowly(client, data, length);
}
