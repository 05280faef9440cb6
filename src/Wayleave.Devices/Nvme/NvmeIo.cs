namespace Wayleave.Devices.Nvme;

/// <summary>The NVM command set of a controller: checks a command and sends it on its way. Token held.</summary>
internal sealed class NvmeIo(NvmeController controller)
{
    public void Begin(NvmeRequest request)
    {
        NvmeCommand command = request.Command;
        if ((NvmeOpcode)command.Opcode is not (NvmeOpcode.Flush or NvmeOpcode.Read or NvmeOpcode.Write))
        {
            request.End(NvmeStatus.InvalidOpcode);
        }
        else if (controller.FindNamespace(command.NamespaceId) is not NvmeNamespace @namespace)
        {
            request.End(NvmeStatus.InvalidNamespace);
        }
        else if ((NvmeOpcode)command.Opcode == NvmeOpcode.Flush)
        {
            BeginMedia(request, NvmeMediaKind.Flush);
        }
        else
        {
            BeginTransfer(request, command, @namespace);
        }
    }

    /// <summary>The request's buffer is the medium's until the medium has answered.</summary>
    public void BeginMedia(NvmeRequest request, NvmeMediaKind kind)
    {
        if (controller.FindNamespace(request.Command.NamespaceId) is not NvmeNamespace @namespace)
        {
            request.End(NvmeStatus.InvalidNamespace); // taken away since
            return;
        }

        request.State = NvmeRequestState.Media;
        long offset = kind == NvmeMediaKind.Flush ? 0 : (long)(request.Command.StartLba << @namespace.BlockShift);
        request.Media.Begin(kind, @namespace, offset, request.LengthBytes);
        controller.Submit(request.Media);
    }

    private void BeginTransfer(NvmeRequest request, in NvmeCommand command, NvmeNamespace @namespace)
    {
        long length = (long)command.BlockCount << @namespace.BlockShift;
        bool isWrite = (NvmeOpcode)command.Opcode == NvmeOpcode.Write;
        if (length > NvmeControllerOptions.TransferBytesMax)
        {
            request.End(NvmeStatus.InvalidField);
            return;
        }

        if (command.StartLba >= @namespace.BlockCount
            || @namespace.BlockCount - command.StartLba < (ulong)command.BlockCount)
        {
            request.End(NvmeStatus.LbaOutOfRange);
            return;
        }

        if (isWrite && @namespace.IsReadOnly)
        {
            request.End(NvmeStatus.WriteFault);
            return;
        }

        NvmeStatus status = request.Pointer.Fetch(command, (int)length, controller.Port);
        if (status != NvmeStatus.Success)
        {
            request.End(status);
            return;
        }

        request.LengthBytes = (int)length;
        if (isWrite)
        {
            request.State = NvmeRequestState.CopyIn;
        }
        else
        {
            BeginMedia(request, NvmeMediaKind.Read);
        }
    }
}
