/* Latencies, and what processes cost. */
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
