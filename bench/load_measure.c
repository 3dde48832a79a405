/* Latencies, what processes cost, and the report on both. */
#define _GNU_SOURCE
#include "load.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

struct process processes[16];
uint32_t process_count;

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void histogram_clear(struct histogram *histogram)
{
    memset(histogram, 0, sizeof *histogram);
}

double histogram_at(const struct histogram *histogram, double part)
{
    uint64_t wanted = (uint64_t)(part * histogram->count), seen = 0;
    if (histogram->count == 0)
        return 0;
    for (uint32_t bucket = 0; bucket < BUCKETS; bucket++) {
        seen += histogram->buckets[bucket];
        if (seen > wanted) {
            uint32_t shift = bucket < 128 ? 0 : (bucket >> 6) - 1; /* the inverse of histogram_add */
            double ns = (double)(((uint64_t)(bucket - (shift << 6)) << shift) + ((1ull << shift) >> 1));
            return (ns < histogram->most ? ns : histogram->most) / 1e6;
        }
    }
    return histogram->most / 1e6;
}

/* CPU time of a process in nanoseconds, by the clock that the kernel keeps for it; ticks of 10 ms are too coarse. */
static double cpu_of(int pid)
{
    clockid_t clock;
    struct timespec used;
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) < 0)
        return 0;
    return used.tv_sec + used.tv_nsec / 1e9;
}

void look_at_cpu(void)
{
    for (uint32_t i = 0; i < process_count; i++) {
        double cpu = cpu_of(processes[i].pid);
        processes[i].used = cpu - processes[i].cpu;
        processes[i].cpu = cpu;
    }
}

double own_cpu(void)
{
    static double before;
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    double cpu = used.tv_sec + used.tv_nsec / 1e9, since = cpu - before;
    before = cpu;
    return since;
}

double all_cpu(void)
{
    static double before;
    unsigned long long user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, soft = 0, steal = 0;
    FILE *file = fopen("/proc/stat", "r");
    if (file == NULL)
        return 0;
    if (fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle, &wait, &irq, &soft,
               &steal) != 8)
        user = 0;
    fclose(file);
    double busy = (double)(user + nice + system + irq + soft + steal) / sysconf(_SC_CLK_TCK), since = busy - before;
    before = busy;
    return since;
}

long pss_of(int pid)
{
    char path[64], line[256];
    long pss = 0;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "Pss: %ld kB", &pss) == 1)
            break;
    fclose(file);
    return pss;
}

/* ---------------------------------------------------------------- report: to a reader, and as JSON */

FILE *json;
bool any_failure;

static uint64_t failure_count(void)
{
    return failures.lost + failures.duplicated + failures.disordered + failures.corrupt + failures.stray +
           failures.closed + failures.refused;
}

void report_processes(double seconds, double own, double all)
{
    double others = all - own;
    for (uint32_t i = 0; i < process_count; i++)
        others -= processes[i].used;
    fprintf(json, "\"cpu\": {\"load\": %.3f, \"others\": %.3f", own / seconds, others > 0 ? others / seconds : 0);
    for (uint32_t i = 0; i < process_count; i++)
        fprintf(json, ", \"%s\": %.3f", processes[i].name, processes[i].used / seconds);
    fprintf(json, "}, \"pss\": {");
    for (uint32_t i = 0; i < process_count; i++)
        fprintf(json, "%s\"%s\": %ld", i ? ", " : "", processes[i].name, pss_of(processes[i].pid));
    fprintf(json, "}");
    printf("  CPU: load %.0f %%", 100 * own / seconds);
    for (uint32_t i = 0; i < process_count; i++)
        printf(", %s %.0f %%", processes[i].name, 100 * processes[i].used / seconds);
    printf(", all else %.0f %% of one core\n", others > 0 ? 100 * others / seconds : 0);
}

void report_latencies(const char *name, const struct histogram *histogram)
{
    static const struct { const char *name; double part; } parts[] = {
        {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}};
    fprintf(json, "\"%s\": {", name);
    printf("  ms:");
    for (int i = 0; i < 5; i++) {
        fprintf(json, "%s\"%s\": %.4f", i ? ", " : "", parts[i].name, histogram_at(histogram, parts[i].part));
        printf(" %s %.3f", parts[i].name, histogram_at(histogram, parts[i].part));
    }
    fprintf(json, "}, ");
    printf("\n");
}

void report_failures(void)
{
    fprintf(json, "\"failures\": {\"lost\": %lu, \"duplicated\": %lu, \"disordered\": %lu, \"corrupt\": %lu, "
            "\"stray\": %lu, \"closed\": %lu, \"refused\": %lu}, \"foreign\": %lu, ",
            failures.lost, failures.duplicated, failures.disordered, failures.corrupt, failures.stray, failures.closed,
            failures.refused, foreign);
    if (failure_count() == 0)
        return;
    any_failure = true;
    printf("  FAILURES: %lu lost, %lu doubled, %lu out of order, %lu corrupt, %lu of another channel, "
           "%lu connections closed, %lu refused\n",
           failures.lost, failures.duplicated, failures.disordered, failures.corrupt, failures.stray, failures.closed,
           failures.refused);
}

double server_cpu(void)
{
    double used = 0;
    for (uint32_t i = 0; i < process_count; i++)
        if (strcmp(processes[i].name, "server") == 0)
            used += processes[i].used;
    return used;
}
