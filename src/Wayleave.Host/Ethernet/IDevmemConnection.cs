using Wayleave.Core;
using Wayleave.Devices.Ethernet;

namespace Wayleave.Host.Ethernet;

/// <summary>
/// A TCP connection whose received bytes may lie in device memory, as its reader sees it: of the software NIC
/// (<see cref="DevmemConnection"/>), or of one of the kernel's (<see cref="LinuxDevmemConnection"/>). One reader and
/// one writer at a time; returning tokens needs neither.
/// </summary>
public interface IDevmemConnection : IAsyncDisposable
{
    /// <summary>Who is at the other end, for people: ADDRESS port PORT.</summary>
    string Peer { get; }

    /// <summary>
    /// Reads what has come: pieces of device memory are described, with a token each to be returned by
    /// <see cref="ReturnTokens"/>; other bytes are copied. Never waits, allocates nothing.
    /// </summary>
    /// <param name="linear">
    /// For bytes that are not in device memory; at least one. The kernel reads no more at once than fits here, in
    /// device memory or not.
    /// </param>
    /// <param name="fragments">For descriptions; at least one.</param>
    /// <param name="result">
    /// What came; bytes of a queue that is bound to nothing come without a description. Zero bytes with success are the
    /// end of what the peer sends.
    /// </param>
    /// <returns>EAGAIN when nothing has come; ETOOSMALL for no room; ECONNRESET, ETIMEDOUT, ENODEV.</returns>
    Errno TryRead(Span<byte> linear, Span<DevmemFragment> fragments, out ReceiveResult result);

    /// <summary>As <see cref="TryRead"/>, once something has come.</summary>
    /// <exception cref="WayleaveException">
    /// ECONNRESET, ETIMEDOUT; ENODEV when the owner took the memory of unread bytes back.
    /// </exception>
    ValueTask<ReceiveResult> ReadAsync(
        Memory<byte> linear, Memory<DevmemFragment> fragments, CancellationToken cancellation = default);

    /// <summary>
    /// Gives pieces of device memory back (<c>SO_DEVMEM_DONTNEED</c>): they may be written again at once. Looks at
    /// <see cref="TokenRange.TokensMax"/> tokens and stops.
    /// </summary>
    /// <returns>How many were given back: tokens that are not held here are skipped.</returns>
    /// <exception cref="WayleaveException">
    /// EINVAL for more than <see cref="TokenRange.RangesMax"/> ranges; ENODEV for memory that was taken back.
    /// </exception>
    int ReturnTokens(ReadOnlySpan<TokenRange> ranges);

    /// <summary>Bytes read that were in device memory, and bytes that were copied to host memory.</summary>
    (long ByToken, long Copied) GetReceived();

    /// <summary>Copies bytes to be sent, and waits while there is no room for them.</summary>
    /// <exception cref="WayleaveException">EPIPE, ECONNRESET, ETIMEDOUT.</exception>
    ValueTask WriteAsync(ReadOnlyMemory<byte> bytes, CancellationToken cancellation = default);

    /// <summary>Nothing more is sent; the peer sees the end behind what is queued, and may go on itself.</summary>
    void Shutdown();

    /// <summary>Resets the peer; nothing, once the connection is closed.</summary>
    void Abort();
}
