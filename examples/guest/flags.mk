# How guest programs are compiled: freestanding, position-dependent i686 code without x87, MMX or SSE.
CC = gcc
CFLAGS = -m32 -march=i686 -O2 -std=gnu11 -ffreestanding -fno-pic -fno-pie -fcf-protection=none \
	-mno-sse -mno-mmx -mno-80387 -fno-asynchronous-unwind-tables -fno-stack-protector \
	-fno-tree-loop-distribute-patterns -Wall -Wextra -Wshadow
LDFLAGS = -m32 -static -nostdlib -no-pie -Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-z,norelro
PLACE = -Wl,-Ttext-segment=0x08048000
