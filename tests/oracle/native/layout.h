/*
 * layout.h: the linear address space of a case, the same in every oracle.
 * native.py reads the REGIONS rows: address, pages, protection (1 read,
 * 2 write, 4 execute), first page in the shared file.
 */
#ifndef ORACLE_LAYOUT_H
#define ORACLE_LAYOUT_H

#define REGIONS \
    REGION(0x00008000, 2, 7, 0) \
    REGION(0x10000000, 2, 7, 2) \
    REGION(0x20000000, 2, 7, 4) \
    REGION(0x20004000, 1, 5, 6) \
    REGION(0x30000000, 2, 7, 7)
#define REGION_COUNT 5
#define REGION_PAGES 9

#define CHILD_BASE 0xF0000000
#define SIGSTACK 0xF0004000
#define SIGSTACK_PAGES 16
#define SIGSTACK_FIRST REGION_PAGES

#endif
