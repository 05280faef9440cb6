using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Linux;

namespace Wayleave.Client;

// The program's half of a dynamic importer (dma_buf_dynamic_attach). One thread does everything that is here:
//
//   Map -> use -> TryWait says that it has to stop -> let nobody in, wait until nobody is inside, unmap -> Release
//    ^                                                                                                        |
//    +---------------------------------- on the next use, unless it was revoked <-----------------------------+

/// <summary>
/// A buffer that a device of this program uses where it is, and lets go of when the host moves it or takes it back. A
/// program that does not answer within two seconds has lost it: the pages that it has are no device's any more.
/// </summary>
public sealed class ClientImport : IDisposable
{
    private readonly BrokerClient _client;
    private readonly ClientBuffer _buffer;
    private readonly uint _number;

    internal ClientImport(BrokerClient client, ClientBuffer buffer, uint number) =>
        (_client, _buffer, _number) = (client, buffer, number);

    public string Name => _buffer.Name;

    public ulong SizeBytes => _buffer.SizeBytes;

    /// <summary>
    /// Puts the buffer's pages into <paramref name="window"/>, from its first byte on; waits while the buffer moves.
    /// </summary>
    /// <param name="window">At least as long as the buffer, and only for it.</param>
    /// <exception cref="BrokerException">
    /// ENODEV: it was taken back. EBUSY: it is mapped. EAGAIN: it moves again. EPROTO: the pages could shrink.
    /// </exception>
    /// <exception cref="LinuxException">ENOMEM: too many mappings.</exception>
    public void MapInto(MappedMemory window)
    {
        ArgumentNullException.ThrowIfNull(window);
        FileDescriptor? pages = null;
        string operation = $"map {Name}";
        _client.Ask(operation, BrokerOperation.MapAttachment, Write, (ref BrokerReader body, FileDescriptor[] sent) =>
        {
            pages = sent is [{ } one] ? one : null;
            return pages is not null && body.IsEnd;
        });
        using (pages)
        {
            // Or whoever made it could end this process by cutting it short.
            if (!MemFd.IsSealedAgainstShrinking(pages!))
            {
                throw new BrokerException(operation, Errno.EPROTO, "the host's pages could shrink");
            }

            window.ReplaceByShared(0, WholePages, pages!, 0);
        }
    }

    /// <summary>
    /// Takes the pages out of <paramref name="window"/>, which reads as zeros from then on, and tells the host. Nobody
    /// is inside any more, or ever again what it does there reaches the buffer.
    /// </summary>
    /// <param name="window">That of <see cref="MapInto"/>.</param>
    /// <exception cref="BrokerException">ECONNRESET: the host is gone; the pages are out.</exception>
    public void Release(MappedMemory window)
    {
        ArgumentNullException.ThrowIfNull(window);
        window.ReplaceByPrivate(0, WholePages);
        _client.Ask($"release {Name}", BrokerOperation.Release, Write);
    }

    /// <summary>Waits until the use has to stop, or until <paramref name="wake"/> is signalled.</summary>
    /// <param name="wake">Not taken.</param>
    /// <param name="isRevoked">It was taken back: it can never be mapped again.</param>
    /// <returns>Whether it has to stop.</returns>
    /// <exception cref="BrokerException">ECONNRESET: the host is gone.</exception>
    public bool TryWait(EventFd wake, out bool isRevoked) => _client.TryTakeNotice(wake, out _, out isRevoked);

    /// <summary>
    /// Ends the connection, and with it the use: unmap before. Disposing twice is fine.
    /// </summary>
    public void Dispose() => _client.Dispose();

    private long WholePages => (long)((SizeBytes + 4095) & ~4095UL);

    private void Write(ref BrokerWriter body) => body.WriteUInt32(_number);
}
