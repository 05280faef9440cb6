using Wayleave.Core;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Nvme;

/// <summary>
/// Takes the requests of a controller from memory to the medium or back, a block at a time. Token held by the caller;
/// host lock not held.
/// </summary>
internal sealed class NvmeMover(NvmeController controller, NvmeIo io)
{
    /// <summary>Does one thing for a request that is not done.</summary>
    /// <returns>False when there is nothing to do.</returns>
    public bool Advance(NvmeRequest request)
    {
        switch (request.State)
        {
            case NvmeRequestState.CopyIn or NvmeRequestState.Media or NvmeRequestState.CopyOut when request.IsAborted:
                request.End(request.Queue.IsDeleted ? NvmeStatus.QueueDeleted : NvmeStatus.AbortRequested);
                return true;
            case NvmeRequestState.CopyIn or NvmeRequestState.CopyOut:
                CopyBlock(request);
                return true;
            case NvmeRequestState.Media when !request.Media.IsOut:
                HandleMedia(request);
                return true;
            case NvmeRequestState.Lent when !request.Media.IsOut:
                request.Release();
                return true;
            default:
                return false;
        }
    }

    private void CopyBlock(NvmeRequest request)
    {
        bool isIn = request.State == NvmeRequestState.CopyIn;
        DeviceAddress? wanted = request.Next(controller.Options.BlockBytes, out int length);
        Span<byte> buffer = request.Buffer.Slice(request.DoneBytes, length);
        int copied;
        if (wanted is not DeviceAddress address)
        {
            copied = length; // into the bit bucket
        }
        else if (isIn)
        {
            if (controller.Port.TryRead(address, length, out ReadOnlySpan<byte> source) != Errno.Success)
            {
                request.End(NvmeStatus.DataTransferError);
                return;
            }

            source.CopyTo(buffer);
            copied = source.Length;
        }
        else
        {
            if (controller.Port.TryWrite(address, length, out Span<byte> target) != Errno.Success)
            {
                request.End(NvmeStatus.DataTransferError);
                return;
            }

            buffer[..target.Length].CopyTo(target);
            copied = target.Length;
        }

        request.Advance(copied);
        if (request.DoneBytes < request.LengthBytes)
        {
            return;
        }

        if (isIn)
        {
            io.BeginMedia(request, NvmeMediaKind.Write);
        }
        else
        {
            request.End(NvmeStatus.Success);
        }
    }

    private static void HandleMedia(NvmeRequest request)
    {
        if (request.Media.Errno != Errno.Success)
        {
            bool isRead = request.Media.Kind == NvmeMediaKind.Read;
            request.End(isRead ? NvmeStatus.UnrecoveredReadError : NvmeStatus.WriteFault);
        }
        else if (request.Media.Kind == NvmeMediaKind.Read)
        {
            request.State = NvmeRequestState.CopyOut;
        }
        else
        {
            request.End(NvmeStatus.Success);
        }
    }
}
