using System.Buffers.Binary;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Sharing;

//   0        4        8
//   | errno  | 0      | nanoseconds |     little-endian; then the end of the stream
//
// Whoever made the descriptor sends that one message and shuts its side: from then on every copy polls as readable. A
// copy that is readable and has no message is one whose maker is dead: its kernel closed the other end.

/// <summary>What a descriptor of <see cref="HandlePair.CreateSignal"/> says. No state; any thread.</summary>
public static unsafe class HandleSignal
{
    internal const int SizeBytes = 16;

    /// <summary>Waits until it is signalled, or its maker is dead.</summary>
    /// <param name="descriptor">A copy of the given end.</param>
    /// <param name="timeout">Relative, or <see cref="Timeout.InfiniteTimeSpan"/>; zero only looks.</param>
    /// <returns>Whether it is. False also when a signal handler ran: look at the clock and call again.</returns>
    public static bool Wait(FileDescriptor descriptor, TimeSpan timeout)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        return DescriptorPoll.Wait(descriptor, poll.POLLIN, timeout, out short seen) == Errno.Success && seen != 0;
    }

    /// <summary>Reads it, and leaves it as it is for others.</summary>
    /// <param name="descriptor">A copy of the given end.</param>
    /// <param name="error">
    /// After true: what the work ended with; ECONNRESET when whoever made the descriptor is gone without a word, or
    /// somebody who had a copy took the word away.
    /// </param>
    /// <param name="timestamp">When it ended, on the maker's clock; zero without a word.</param>
    /// <returns>False while it is pending.</returns>
    public static bool TryRead(FileDescriptor descriptor, out Errno error, out TimeSpan timestamp)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        (error, timestamp) = (Errno.ECONNRESET, TimeSpan.Zero);
        byte* bytes = stackalloc byte[SizeBytes];
        nint count = Libc.recv(descriptor, bytes, SizeBytes, socket.MSG_PEEK | socket.MSG_DONTWAIT);
        if (count < 0)
        {
            Errno errno = LinuxException.LastErrno();
            return errno is Errno.EAGAIN or Errno.EINTR ? false
                : errno == Errno.ECONNRESET ? true
                : throw new LinuxException("recv", "a fence", errno);
        }

        ReadOnlySpan<byte> read = new(bytes, (int)count);
        uint number = count == SizeBytes ? BinaryPrimitives.ReadUInt32LittleEndian(read) : uint.MaxValue;
        if (number <= 4095)
        {
            error = (Errno)number;
            timestamp = TimeSpan.FromTicks(
                (long)(BinaryPrimitives.ReadUInt64LittleEndian(read[8..]) / TimeSpan.NanosecondsPerTick));
        }

        return true;
    }

    internal static void Write(Span<byte> bytes, Errno error, TimeSpan timestamp)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, (uint)error);
        BinaryPrimitives.WriteUInt64LittleEndian(
            bytes[8..], (ulong)timestamp.Ticks * TimeSpan.NanosecondsPerTick);
    }
}
